"""What each runtime accepts, and how to compile for it. One file per target; the file name is its key."""
