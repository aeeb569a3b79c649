"""A page on what a tested model gets right and wrong: `mmfocal test --report`."""
