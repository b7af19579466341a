"""The command line interface: `videoswin COMMAND`."""
