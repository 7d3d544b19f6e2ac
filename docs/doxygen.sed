# docs/doxygen.sed - what Doxygen reads of a header: sources are cited as repository@commit, which it would take for a command.
s/@([0-9a-f]{7,})/\\@\1/g
