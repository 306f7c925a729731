"""What the run used: joules by meter, component, machine and model, with bounds."""
