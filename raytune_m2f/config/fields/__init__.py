"""Every key of the configuration, section by section."""
