"""The commands of the command line, a function each; heavy imports wait until a command needs them."""
