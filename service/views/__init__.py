"""What people look at: progress, status, tables and figures."""
