"""What the recipes share: data, tokenizer and vocabulary, training loop, metrics, export."""
