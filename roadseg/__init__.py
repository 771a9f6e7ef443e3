"""What goes beyond the script: one module is one concept or one command."""
