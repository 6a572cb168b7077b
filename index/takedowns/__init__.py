"""The takedown log, fingerprints of withdrawn works, and their removal."""
