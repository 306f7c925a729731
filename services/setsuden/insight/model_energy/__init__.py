"""What a bundle's models cost on this machine, and what would cost less."""
