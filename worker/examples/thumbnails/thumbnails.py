"""Thumbnails of images on the web: fetches an image, scales it, and keeps both with the engine."""

from tempfile import NamedTemporaryFile

import httpx
from PIL import Image, UnidentifiedImageError

from flowherd import ActivityError, Registry, SyncActivityContext

Image.MAX_IMAGE_PIXELS = 50_000_000  # an image of more than twice as many is refused

registry = Registry()


@registry.activity(timeout_s=60)
def fetch_image(ctx: SyncActivityContext, url: str) -> dict[str, str]:
    """Streams the image to disk and from there to the engine, in constant memory."""
    with httpx.stream("GET", url, follow_redirects=True) as reply, NamedTemporaryFile() as file:
        if reply.is_client_error:
            raise ActivityError(f"the server answers {reply.status_code}", code="NO_IMAGE", retryable=False)
        reply.raise_for_status()
        for chunk in reply.iter_bytes():
            file.write(chunk)
        file.flush()
        return {"image": ctx.upload_file(file.name, "original")}


@registry.activity(timeout_s=60)
def make_thumbnail(ctx: SyncActivityContext, image: str, size: int) -> dict[str, str | int]:
    """Scales in a thread: Pillow releases the GIL while it decodes, scales and encodes."""
    original = ctx.download_file(image)
    try:
        with Image.open(original) as picture:
            picture.thumbnail((size, size))
            small = picture.convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ActivityError(str(error), code="BAD_IMAGE", retryable=False) from error
    target = original.with_name("thumbnail.jpg")
    small.save(target, quality=85)
    return {
        "thumbnail": ctx.upload_file(target, "thumbnail.jpg"),
        "width": small.width,
        "height": small.height,
    }
