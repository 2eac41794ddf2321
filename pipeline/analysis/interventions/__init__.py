"""How a picture is changed: transfers between images, outlines of objects, the catalogue."""
