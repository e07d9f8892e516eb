"""One outside system in each module; the modules do not import one another."""
