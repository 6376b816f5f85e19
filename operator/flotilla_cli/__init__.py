"""The command line: `flotilla`, and as a plugin `kubectl flotilla`."""
