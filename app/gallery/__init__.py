"""The demo's gallery, drawn by code: invented artists, recurring subjects and queries about them.

canvas       shapes in coordinates that fit every size
texture      fields of numbers: noise, lines, cells, tones
motifs       what scenes are made of: trees, boats, fish
scenes       what the artists look at
paintings    how artists of brush and pen render it
prints       how artists of the press do
crafts       how artists of glass, stone, paper, tubes and pixels do
styles       the artists by name
subjects     the things that recur
backdrops    the grounds they stand on
pictures     one picture, put together from the above
collection   which pictures there are
hanging      the gallery on disk
"""

from app.gallery.hanging import DemoGallery, draw_gallery

__all__ = ["DemoGallery", "draw_gallery"]
