"""The folder that slc writes: its bytes, its manifest, and what can be asked of it later."""
