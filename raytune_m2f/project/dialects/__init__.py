"""Read the exports of annotation tools, each as an `Export`."""
