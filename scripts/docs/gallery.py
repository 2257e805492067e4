def pages(): return {"gallery.md": "# Gallery\n"}
