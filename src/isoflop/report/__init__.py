"""What people look at: terminal tables, charts, the one-file HTML page. Reads stored JSON, never imports ``lab``."""
