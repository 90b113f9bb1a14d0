"""Images in, views out: data sets, augmentation, order."""
