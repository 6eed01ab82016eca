"""Transform a finished graph: fuse operators, or convert it to float16 or int8."""
