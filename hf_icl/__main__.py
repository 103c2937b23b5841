"""`python -m hf_icl` is `hf-icl`."""

from hf_icl.cli.main import main

if __name__ == "__main__":
    main()
