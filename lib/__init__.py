"""What the stage scripts share: one subject a file. Nothing here reads flags, and nothing here imports a script."""
