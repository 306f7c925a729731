"""What a person looks at afterwards: reports of energy and cost, carbon, traces."""
