"""Where weights come from, a file for each origin."""
