"""jirgee_train: labelled texts -> a fine-tuned checkpoint, an ordinary Hugging Face directory."""
