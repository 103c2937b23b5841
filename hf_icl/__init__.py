"""When in-context learning appears in a Hugging Face model, and when it fades."""
