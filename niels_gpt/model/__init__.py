"""The torch modules: training, and the slow twin that faster paths are tested against."""
