"""The command line: `videoswin <command>`."""
