"""The `hf-icl` command. Thin: it parses words, calls the library, and says what came of it."""
