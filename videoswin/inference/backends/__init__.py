"""Models in other runtimes: one file each, which writes a traced model and runs what it wrote."""
