"""The functional core: values and times in, values out. No IO, no logging, no clock, no thread."""
