"""Every fact that the CRDs' schemas check, with objects that show it: some are accepted, some refused."""
