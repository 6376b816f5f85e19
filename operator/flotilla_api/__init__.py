"""The contract between operator, router and users: the kinds, their schemas, names, reasons and the snapshot."""
