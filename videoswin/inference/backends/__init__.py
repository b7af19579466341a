"""Other runtimes, one file each: write an exported model, load it and run it."""
