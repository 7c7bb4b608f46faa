"""What `quotapool init` writes: a configuration, files for systemd, Compose and Helm. Pure: values in, texts out."""
