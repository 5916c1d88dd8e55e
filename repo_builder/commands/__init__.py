"""The commands, a module each: `add` gives the parser its words, `run` does what they ask for."""
