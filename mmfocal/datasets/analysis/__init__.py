"""What a tested model gets wrong: tables of precisions, confusion matrices, kinds of errors, the worst images."""
