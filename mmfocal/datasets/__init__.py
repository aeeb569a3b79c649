"""The generated shapes data set, and checks of annotation and image files."""
