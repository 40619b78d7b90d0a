"""The commands of `stprune`, one module each: help, arguments, and what is run. `stprune_ros.cli` lists them."""
