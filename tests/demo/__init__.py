"""`make demo` and `make up`: the whole of Flotilla on a local cluster, shown to a person."""
