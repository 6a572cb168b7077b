"""The invented artists: each renders any picture in one palette, with one kind of mark."""

from collections.abc import Callable, Mapping

from numpy.random import Generator

from app.gallery import crafts, paintings, prints
from app.gallery.canvas import Pixels

Style = Callable[[Pixels, Generator], Pixels]
"""From plain colours (n, n, 3) to the artist's picture of the same shape."""

STYLES: Mapping[str, Style] = {
    "Pointillist Ada": paintings.pointillist,
    "Woodcut Bruno": prints.woodcut,
    "Stained-glass Cleo": crafts.stained_glass,
    "Bauhaus Dora": crafts.bauhaus,
    "Op-art Egon": prints.op_art,
    "Watercolour Fay": paintings.watercolour,
    "Pixel Gus": crafts.pixel_art,
    "Crosshatch Hana": paintings.crosshatch,
    "Neon Ivo": crafts.neon,
    "Mosaic Juno": crafts.mosaic,
    "Impasto Kofi": paintings.impasto,
    "Blueprint Lars": prints.blueprint,
    "Risograph Mina": prints.risograph,
    "Papercut Noor": crafts.papercut,
    "Crystal Otto": crafts.crystal,
    "Ukiyo Umi": prints.ukiyo,
}
