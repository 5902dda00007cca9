"""`python -m slc.compiler.cli`: the command without its installed script."""

from slc.compiler.cli import main

main()
