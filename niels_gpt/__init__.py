"""niels-gpt: the model, its tokens and the chat around them. Importing the package itself imports nothing."""
