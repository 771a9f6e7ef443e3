"""Road scenes drawn by rule, each with labels that are exact.

A scene is a flat ground seen by a pinhole camera. Every ground pixel knows how far ahead it is,
`z`, and how far it lies from the middle of the (curved) road, `s`, both in metres: road, marks,
verge, texture and shadows are functions of the two, so the label is exact. What stands on the
ground is drawn over it as polygons, at twice the size, from far to near; whatever it covers is
not road.
"""
import functools
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from roadseg.datasets.description import IGNORED

CATEGORIES = ('um', 'umm', 'uu')    # urban marked, urban multiple marked lanes, urban unmarked

RED, MAGENTA, BLACK = (255, 0, 0), (255, 0, 255), (0, 0, 0)

CLASSES = ('road', 'marking', 'pavement or verge', 'sky', 'vegetation', 'building', 'vehicle')
PALETTE = ((128, 64, 128), (255, 255, 255), (244, 35, 232), (70, 130, 180), (107, 142, 35),
           (128, 0, 0), (0, 0, 142))
ROAD, MARKING, BESIDE, SKY, VEGETATION, BUILDING, VEHICLE = range(7)

EYE = 1.65           # metres of the camera above the road
BEND_END = 90.       # metres ahead up to which the road bends; it runs straight from there
TABLE_HALF = 32.     # metres to each side of the road's middle that have their own colour
TABLE_STEP = .02     # metres between two entries of that table
BLURS = (1, 2, 4, 8, 16)
DASH_LEVELS = 4

# Sky at the zenith and at the horizon, cloud (colour, threshold: the lower the more of it), how
# dark a shadow is, gain of the camera per channel.
WEATHERS = {
    'clear': dict(top=(62, 120, 200), low=(196, 219, 236), cloud=(250, 250, 250), cover=.7,
                  shade=.52, gain=(1.04, 1.01, .95)),
    'cloudy': dict(top=(88, 136, 196), low=(205, 218, 228), cloud=(240, 241, 244), cover=.05,
                   shade=.40, gain=(1.0, 1.0, .98)),
    'overcast': dict(top=(160, 168, 178), low=(216, 219, 221), cloud=(188, 192, 198), cover=-.2,
                     shade=.16, gain=(.90, .93, .96)),
    'golden': dict(top=(104, 146, 206), low=(252, 226, 186), cloud=(255, 236, 212), cover=.5,
                   shade=.50, gain=(1.10, 1.0, .86)),
}
WALLS = ((226, 208, 172), (206, 196, 184), (158, 92, 72), (232, 229, 220), (216, 172, 112),
         (176, 190, 198), (196, 132, 104), (188, 196, 168), (222, 190, 176), (142, 128, 116))
ROOFS = ((150, 72, 54), (128, 64, 52), (92, 88, 90), (110, 84, 70), (168, 92, 64))
PAINTS = ((184, 28, 32), (32, 58, 118), (226, 228, 230), (36, 38, 42), (148, 152, 156),
          (92, 98, 104), (24, 92, 84), (206, 158, 44), (118, 34, 48), (72, 112, 160))

# Side view of a vehicle: its outline as (metres from the rear, metres above the ground) from the
# rear bumper over the roof to the front one, which stretches of it are glass, and the side
# window as the outline of a trapezium.
VEHICLES = {
    'saloon': dict(outline=((0, .3), (0, .95), (.7, 1.02), (1.3, 1.42), (2.6, 1.45), (3.3, 1.0),
                            (4.3, .8), (4.45, .3)), glass=(2, 4), width=1.78, pillar=2.05,
                   window=((.98, 1.02), (1.4, 1.36), (2.56, 1.38), (3.1, 1.02))),
    'hatchback': dict(outline=((0, .3), (0, .98), (.42, 1.46), (2.2, 1.5), (3.0, 1.02),
                               (3.85, .84), (3.98, .3)), glass=(1, 3), width=1.72, pillar=1.5,
                      window=((.34, 1.04), (.62, 1.4), (2.14, 1.43), (2.8, 1.04))),
    'van': dict(outline=((0, .3), (0, 1.1), (.14, 2.0), (3.6, 2.05), (4.25, 1.2), (4.9, 1.0),
                         (5.0, .3)), glass=(1, 3), width=1.95, pillar=3.0,
                window=((2.2, 1.25), (2.24, 1.85), (3.55, 1.88), (4.05, 1.25))),
}


class _View(NamedTuple):
    """Where the camera is and how the road runs before it; lengths in metres, image in pixels."""
    height: int
    width: int
    focal: float
    horizon: float   # row
    shift: float     # of the road's middle at the camera, to the right
    heading: float   # metres to the right per metre ahead
    bend: float      # curvature, 1 / metre; to the right where positive

    def middle(self, z):
        """How far to the right (metres) the road's middle is at `z` metres ahead."""
        bent = np.minimum(z, BEND_END)
        return (self.shift + self.heading * z
                + self.bend * bent * (z - bent / 2))

    def project(self, x, y, z):
        """(column, row) on the drawing, which has twice the image's size, of a point in metres."""
        scale = 2 * self.focal / z
        return self.width + scale * x, 2 * self.horizon + scale * (EYE - y)


class _Road(NamedTuple):
    """What lies at which distance (metres) from the road's middle."""
    left: float      # edge, negative
    right: float
    lanes: tuple     # (middle of the lane, +1 if it runs our way else -1)
    dashed: tuple    # middles of the broken lines
    solid: tuple
    verges: tuple    # kind to the left, kind to the right
    wander: tuple    # metres by which the left and the right edge wander


# Lamps and signs are none of the classes.
THINGS = {'building': BUILDING, 'tree': VEGETATION, 'bush': VEGETATION, 'vehicle': VEHICLE,
          'oncoming': VEHICLE, 'lamp': IGNORED, 'sign': IGNORED}


class Scene(NamedTuple):
    """A picture and what is known of it."""
    image: np.ndarray       # uint8 (H, W, 3), RGB
    label: np.ndarray       # uint8 (H, W, 3) in KITTI's colours
    classes: np.ndarray     # uint8 (H, W), numbers of `CLASSES` and `IGNORED`
    calibration: str        # text of KITTI's calibration file


class _Thing(NamedTuple):
    """Something that stands on the ground, at `s` metres from the road's middle."""
    kind: str        # 'building', 'tree', 'bush', 'vehicle', 'oncoming', 'lamp', 'sign'
    s: float
    z: float         # nearest end, metres ahead
    length: float    # along the road
    height: float
    look: int        # seeds its colours and details


# Textures ---------------------------------------------------------------------------------------

@functools.lru_cache(maxsize=None)
def _noise(roughness):
    """Tile of noise that continues at its borders.

    Args:
        roughness: exponent of the spectrum 1 / frequency ** roughness: 0 is sand, 2 is clouds.

    Returns:
        (512, 512) float32, mean 0, standard deviation 1.
    """
    spectrum = np.fft.rfft2(np.random.default_rng(17).standard_normal((512, 512)))
    frequency = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.rfftfreq(512)) * 512
    frequency[0, 0] = np.inf
    tile = np.fft.irfft2(spectrum / frequency ** roughness)
    return (tile / tile.std()).astype(np.float32)


def _sample(tile, rows, columns):
    """Nearest entries of a tile: `rows` (R, 1) and `columns` (R, W) or (1, W) in its steps."""
    rows = np.floor(rows).astype(np.int32) & 511
    columns = columns.astype(np.int32) & 511
    return tile.ravel().take(rows * 512 + columns)


@functools.lru_cache(maxsize=None)
def foliage():
    """Trees and bushes, each as a list of RGBA images of 384, 192, 96, 48 and 24 rows.

    Returns:
        Dict of 'tree' and 'bush', each a list of such lists. Seen from the front, the foot of
        the trunk at the middle of the lower border, lit from the upper left.
    """
    rng = np.random.default_rng(23)
    greens = ((74, 112, 46), (94, 126, 52), (58, 96, 50), (112, 130, 56), (84, 118, 66),
              (134, 124, 48))
    shapes = {'tree': [(.36, .36, .34), (.34, .40, .38), (.17, .47, .47), (.38, .33, .30),
                       (.30, .38, .36), (.35, .37, .35)],
              'bush': [(.48, .58, .50), (.49, .60, .48), (.46, .56, .52)]}
    plants = {}
    for kind, crowns in shapes.items():
        plants[kind] = []
        for number, crown in enumerate(crowns):
            image = _plant(rng, crown, greens[(number + (kind == 'bush')) % len(greens)])
            plants[kind].append([image] + [image.reduce(2 ** k) for k in range(1, 5)])
    return plants


def _plant(rng, crown, green):
    """Draws one plant; `crown` holds half width, middle's row and half height, as shares."""
    size = 384      # pixels of a side
    half_width, middle, half_height = (part * size for part in crown)
    image = Image.new('RGBA', (size, size), green + (0,))
    draw = ImageDraw.Draw(image)
    x0, trunk = size / 2, size * .022
    for part, tone in ((1., (74, 58, 44)), (.3, (104, 84, 64))):
        draw.polygon([(x0 - trunk, size), (x0 - trunk * .6, middle),
                      (x0 + trunk * (2 * part - 1) * .6, middle),
                      (x0 + trunk * (2 * part - 1), size)], fill=tone + (255,))
    # Clumps of leaves fill the crown; leaves are dabs on a clump, lighter towards the light.
    angle, reach = rng.uniform(0, 2 * np.pi, 46), np.sqrt(rng.uniform(.0, 1, 46)) * .78
    clumps = np.stack([reach * np.cos(angle), reach * np.sin(angle)], 1)
    dabs = []
    for cx, cy in clumps[np.argsort(-clumps[:, 1])]:
        angle, reach = rng.uniform(0, 2 * np.pi, 150), rng.uniform(0, .27, 150)
        dx, dy = reach * np.cos(angle), reach * np.sin(angle)
        light = .80 - .30 * cy - .16 * cx - .95 * dy - .6 * dx + rng.normal(0, .08, 150)
        dabs += [(cx + dx[i], cy + dy[i], light[i]) for i in np.argsort(light)]
    for dx, dy, light in dabs:
        x, y = x0 + dx * half_width, middle + dy * half_height
        radius = rng.uniform(.005, .012) * size
        draw.ellipse([x - radius, y - radius * .8, x + radius, y + radius * .8],
                     fill=_tone(green, np.clip(light, .38, 1.45)) + (255,))
    return image


def _tone(colour, factor):
    """Colour times a factor, as three integers in [0, 255]."""
    return tuple(int(min(max(part * factor, 0), 255)) for part in colour)


# What is in a scene -----------------------------------------------------------------------------

def _pick_view(rng, category, size, road):
    height, width = size
    # The camera keeps to the middle of a lane that runs its way, give or take.
    own = rng.choice([lane for lane, way in road.lanes if way > 0])
    bend = rng.choice([-1, 1]) * rng.uniform(0, 1) / (140 if category == 'umm' else 85)
    return _View(height, width, .58 * width, height * (.46 + rng.uniform(-.02, .02)),
                 -own + rng.uniform(-.5, .5), rng.uniform(-.05, .05) - bend * 5, bend)


def _pick_road(rng, category):
    if category == 'uu':
        half = rng.uniform(2.4, 3.4)
        lanes, dashed, solid = ((-half / 2, -1), (half * .42, 1)), (), ()
    else:
        count = 2 if category == 'um' else int(rng.integers(3, 6))
        lane, margin = rng.uniform(3.1, 3.7), rng.uniform(.25, .6)
        half = count * lane / 2 + margin
        ours = 1 if category == 'um' else int(rng.integers(count - count // 2, count + 1))
        lanes = tuple((lane * (i + .5 - count / 2), 1 if i >= count - ours else -1)
                      for i in range(count))
        between = [lane * (i - count / 2) for i in range(1, count)]
        # Where several lanes run each way, an unbroken line parts the two directions.
        parting = [lane * (count / 2 - ours)] if category == 'umm' and ours < count else []
        dashed = tuple(line for line in between if line not in parting)
        edges = [margin - half, half - margin] if category == 'umm' or rng.random() < .85 else []
        solid = tuple(parting + edges)
    kinds = ['grass', 'pavement', 'gravel']
    verges = tuple(rng.choice(kinds, 2, p=[.35, .4, .25] if category == 'uu' else [.3, .5, .2]))
    # A kerb is straight; the edge of an unmarked road without one is not.
    wander = tuple(rng.uniform(.03, .14) if category == 'uu' and verge != 'pavement' else 0.
                   for verge in verges)
    return _Road(-half, half, lanes, dashed, solid, verges, wander)


def _place_things(rng, road, view):
    """Rows of houses, trees and lamps beside the road and vehicles on it: a list of _Thing."""
    things = []

    def add(kind, s, z, length=0., height=0.):
        things.append(_Thing(kind, float(s), float(z), float(length), float(height),
                             int(rng.integers(1 << 30))))

    for side, edge in ((-1, road.left), (1, road.right)):
        scenery = rng.choice(['town', 'suburb', 'green'], p=[.4, .35, .25])
        share = {'town': .94, 'suburb': .6, 'green': .12}[scenery]
        setback = rng.uniform(3.2, 5.5) + (0 if scenery == 'town' else rng.uniform(2, 5))
        z = rng.uniform(3, 9)
        while z < 125:
            length = rng.uniform(9, 19)
            if rng.random() < share:
                floors = rng.integers(2, 5 if scenery == 'town' else 3)
                add('building', edge + side * (setback + rng.uniform(0, 1.2)), z, length,
                    floors * 2.9 + .8)
            z += length + (rng.uniform(0, 1.5) if scenery == 'town' else rng.uniform(3, 12))
        spacing = {'town': 17, 'suburb': 10, 'green': 6}[scenery]
        z = rng.uniform(11, 11 + spacing)
        while z < 130:
            tall = rng.random() < .75
            far = rng.uniform(2.2, 3.0) if scenery == 'town' else rng.uniform(2.6, 11)
            add('tree' if tall else 'bush', edge + side * far, z,
                height=rng.uniform(5, 9.5) if tall else rng.uniform(1., 2.))
            z += spacing * rng.uniform(.5, 1.5)
        if rng.random() < .6:
            for z in np.arange(rng.uniform(9, 25), 110, 27):
                add('lamp', edge + side * .9, z, height=6.8)
        if rng.random() < .5:
            add('sign', edge + side * .9, rng.uniform(11, 30), height=2.6)
        if rng.random() < (.3 if len(road.dashed) > 1 else .55):
            on_road = rng.random() < .5 and road.right - road.left > 5.4 and side < 0
            z = rng.uniform(8, 24)
            for _ in range(int(rng.integers(1, 5))):
                add('vehicle', edge - side * 1. if on_road else edge + side * 1.25, z)
                z += rng.uniform(6, 14)
    for lane, way in road.lanes:
        own = abs(lane + view.shift) < 1.6
        z = rng.uniform(16 if own else 8, 60)
        while z < 90 and rng.random() < .75:
            if not any(thing.kind == 'vehicle' and abs(thing.s - lane) < 2.2
                       and abs(thing.z - z) < 7 for thing in things):
                add('vehicle' if way > 0 else 'oncoming', lane + rng.uniform(-.25, .25), z)
            z += rng.uniform(14, 45)
    return things


# Sky and ground ---------------------------------------------------------------------------------

def _draw_sky(rng, weather, view, rows):
    """Draws gradient, clouds, hills and a row of trees far away.

    Args:
        rows: how many rows, counted from the top, reach down to the far trees' feet.

    Returns:
        (rows, W, 3) float32 in [0, 255]; (rows, W) uint8: `SKY`, or `VEGETATION` on the hills.
    """
    v = np.arange(rows, dtype=np.float32)[:, None] + .5
    up = np.clip(1 - v / view.horizon, 0, 1)[..., None] ** .8
    low = np.array(weather['low'], np.float32)
    sky = low + up * (np.array(weather['top'], np.float32) - low)
    u = np.arange(view.width, dtype=np.float32)[None] / view.width
    depth = 90 / (up[..., 0] + .22)
    # Clouds shrink towards the horizon, as a flat layer of them does.
    cloud = _sample(_noise(1.6), depth * 2.4 + rng.uniform(0, 512),
                    (u - .5) * depth * 1.5 + rng.uniform(600, 1000))
    cloud = np.clip((cloud - weather['cover']) * .75, 0, 1) * np.minimum(1, up[..., 0] * 4)
    sky = sky + cloud[..., None] * .85 * (np.array(weather['cloud'], np.float32) - sky)

    classes = np.full((rows, view.width), SKY, np.uint8)
    greens = np.array([(70, 100, 62), (60, 84, 44)], np.float32)
    for layer, (haze, low_top, high_top, roughness) in enumerate(
            ((.72, .015, .04, 2.6), (.42, .022, .022, 1.3))):
        ridge = _noise(roughness)[rng.integers(512)]
        ridge = np.interp(np.arange(view.width) / view.width * 300, np.arange(512), ridge)
        top = view.horizon - view.height * np.clip(low_top + high_top * ridge, .006, .12)
        first = int(top.min())
        cover = np.clip(v[first:] - top[None], 0, 1)[..., None]
        grain = 1 + .10 * layer * _sample(_noise(1.), v[first:] * 1.5, u * 700)[..., None]
        tone = haze * low + (1 - haze) * greens[layer] * grain
        sky[first:] += cover * (tone - sky[first:])
        classes[first:][cover[..., 0] >= .5] = VEGETATION
    return sky, classes


def _ground_table(rng, road):
    """Colour and roughness of the ground by its distance from the road's middle.

    Returns:
        (DASH_LEVELS, len(BLURS), N, 6) float32: red, green, blue in [0, 255], strength of the
        fine and of the coarse texture, share of paint. Along the first axis the broken lines get
        stronger, along the second the table gets smoother, for ground that is farther away.
    """
    s = np.arange(-TABLE_HALF, TABLE_HALF, TABLE_STEP)
    table = np.empty((len(s), 6))
    green = np.array((88, 116, 50)) + rng.uniform(-14, 14, 3) + rng.uniform(-12, 26) * np.array(
        (1.2, .6, .1))
    table[:] = (*green, .11, .15, 0)
    tar = rng.uniform(74, 118) + rng.uniform(-1, 1) * np.array((5, 0, -6))
    for side, edge, kind in ((-1, road.left, road.verges[0]), (1, road.right, road.verges[1])):
        d = side * s - side * edge
        if kind == 'pavement':
            slab = np.array((176, 168, 158)) if rng.random() < .6 else np.array((170, 128, 108))
            slab = slab * rng.uniform(.92, 1.1)
            width = rng.uniform(1.7, 2.6)
            table[(d >= 0) & (d < width)] = (*slab, .05, .05, 0)
            table[(d >= .2) & (d < width) & (d % .5 < .025), :3] *= .82
            table[(d >= .0) & (d < .20)] = (206, 204, 198, .04, .03, 0)
            table[(d >= .20) & (d < .24), :3] *= .6
            table[(d >= width) & (d < width + .12)] = (150, 146, 138, .04, .03, 0)
        elif kind == 'gravel':
            stone = np.array((172, 150, 116)) * rng.uniform(.9, 1.1)
            table[(d >= 0) & (d < rng.uniform(.8, 2.2))] = (*stone, .13, .07, 0)
        else:
            fringe = (d >= 0) & (d < .3)
            table[fringe] = (118, 104, 74, .16, .1, 0)
    on_road = (s > road.left) & (s < road.right)
    table[on_road] = (*tar, .055, .035, 0)
    for lane, _ in road.lanes:
        for track in (-.75, .75):
            table[:, :3] *= 1 - .055 * (on_road * np.exp(-((s - lane - track) / .3) ** 2))[:, None]
    edge_distance = np.minimum(s - road.left, road.right - s)
    table[:, :3] *= 1 - .16 * (on_road * np.exp(-np.maximum(edge_distance, 0) / .12))[:, None]

    paint, worn = np.array((238, 238, 230)), rng.uniform(.72, .98)
    drawn = []
    for strength in np.linspace(0, 1, DASH_LEVELS):
        marked = table.copy()
        for lines, part in ((road.solid, 1.), (road.dashed, strength)):
            for line in lines:
                where = np.abs(s - line) < .075
                marked[where, :3] += worn * part * (paint - marked[where, :3])
                marked[where, 5] = part
        drawn.append([np.stack([np.convolve(np.pad(channel, blur, 'edge'), np.ones(blur) / blur,
                                            'same')[blur:-blur] for channel in marked.T], 1)
                      for blur in BLURS])
    return np.array(drawn, np.float32)


def _draw_ground(rng, view, road, things, weather, first, sun):
    """Draws what is flat.

    Args:
        first: first row to draw.
        sun: -1 where it shines from the left, 1 from the right.

    Returns:
        (R, W, 3) float32 in [0, 255]; s (R, W) and z (R, 1), metres; (R, W) uint8: `ROAD`,
        `MARKING` where half of what is seen is paint, or `BESIDE`.
    """
    rows = np.arange(first, view.height, dtype=np.float32)[:, None] + .5
    z = (view.focal * EYE / (rows - view.horizon)).astype(np.float32)
    x = (np.arange(view.width, dtype=np.float32)[None] + .5 - view.width / 2) * (z / view.focal)
    s = x - view.middle(z).astype(np.float32)
    drift = rng.uniform(0, 512, 4).astype(np.float32)
    coarse = _sample(_noise(1.3), z * 7 + drift[0], x * 7 + drift[1] + 4096)
    fine = _sample(_noise(.35), z * 26 + drift[2], x * 42 + drift[3] + 16384)
    if any(road.wander):
        s += np.where(s < 0, *np.array(road.wander, np.float32)) * coarse

    depth = z * z / (view.focal * EYE)       # metres of ground in one row
    phase = np.abs((z + drift[0]) % 9 - 3)   # a stroke of 4 m every 9 m
    dash = np.rint(np.clip((2 - phase) / depth + .5, 0, 1) * (DASH_LEVELS - 1)).astype(np.int32)
    blur = np.clip(np.rint(np.log2(z / view.focal / TABLE_STEP)), 0, len(BLURS) - 1)
    table = _ground_table(rng, road)
    count = table.shape[2]
    entry = np.clip((s + TABLE_HALF) * (1 / TABLE_STEP), 0, count - 1).astype(np.int32)
    entry += (dash * len(BLURS) + blur.astype(np.int32)) * count
    look = table.reshape(-1, 6).take(entry, axis=0)
    calm = np.minimum(1, 22 / z)             # texture fades before it would flicker
    light = 1 + calm * (fine * look[..., 3] + coarse * look[..., 4])
    light *= _shadows(s, z, x, things, weather['shade'], sun)
    ground = look[..., :3] * light[..., None]
    haze = (1 - np.exp(-z / 260))[..., None]
    ground += haze * (np.array(weather['low'], np.float32) - ground)
    classes = np.where((s > road.left) & (s < road.right),
                       np.where(look[..., 5] >= .5, MARKING, ROAD), BESIDE)
    return ground, s, z, classes.astype(np.uint8)


def _shadows(s, z, x, things, shade, sun):
    """(R, W) float32 in (0, 1]: the light that is left beside houses, trees and vehicles."""
    light = np.ones_like(s)

    def darken(near, far, reach, amount):
        """Multiplies rows from `near` to `far` metres; `reach(s, z)` is > 0 in the shadow."""
        rows = np.flatnonzero((z[:, 0] > near) & (z[:, 0] < far))
        if len(rows):
            part = slice(rows[0], rows[-1] + 1)
            light[part] *= 1 - amount * np.clip(reach(s[part], z[part], x[part]), 0, 1)

    for thing in things:
        if thing.kind in ('vehicle', 'oncoming'):
            darken(thing.z - 1, thing.z + 5.5, lambda s, z, x: .75 + 1.6 * np.minimum(
                .85 - np.abs(s - thing.s), 2.1 - np.abs(z - thing.z - 2.1)), .45 + .4 * shade)
        elif thing.kind == 'building' and thing.s * sun > 0:
            # Lower sun, longer shadow: here it reaches as far as the house is high, times .8.
            darken(thing.z - 4, thing.z + thing.length + 1, lambda s, z, x: .5 + 2.2 * np.minimum(
                sun * (s - thing.s) + thing.height * .8,
                np.minimum(z - thing.z + 3, thing.z + thing.length - 3 - z)), shade)
        elif thing.kind == 'tree':
            centre, radius = thing.s - sun * thing.height * .75, thing.height * .36
            ragged = _noise(1.)
            darken(thing.z - 5, thing.z + 5, lambda s, z, x: 1.3 - ((s - centre) / radius) ** 2
                   - ((z - thing.z) / radius * 1.4) ** 2
                   + .45 * _sample(ragged, z * 9, x * 9 + 4096), shade)
    return light


# What stands upright ----------------------------------------------------------------------------

_OPAQUE = [255 * (alpha > 127) for alpha in range(256)]


class _Canvas:
    """The picture at twice its size, and beside it what has been drawn over it.

    `mask` is 255 there, less where leaves are translucent; `numbers` has the class, which is set
    as `number` before a thing is drawn.
    """

    def __init__(self, ground, view, weather, sun):
        size = (2 * view.width, 2 * view.height)
        self.image = Image.fromarray(ground).resize(size, Image.NEAREST)
        self.mask, self.numbers, self.number = Image.new('L', size), Image.new('L', size), None
        self.view, self.weather, self.sun = view, weather, sun
        self._draw, self._cover = ImageDraw.Draw(self.image), ImageDraw.Draw(self.mask)
        self._assign = ImageDraw.Draw(self.numbers)

    def polygon(self, points, colour, light=1.):
        """Fills the polygon of (x, y, z) points in metres; distance pales its colour."""
        haze = 1 - math.exp(-points[0][2] / 200)
        colour = tuple(int(min(max(part * light, 0), 255) * (1 - haze) + pale * haze)
                       for part, pale in zip(colour, self.weather['low']))
        corners = [self.view.project(*point) for point in points]
        self._draw.polygon(corners, fill=colour)
        self._cover.polygon(corners, fill=255)
        self._assign.polygon(corners, fill=self.number)

    def paste(self, plants, x, z, height, flip):
        """Pastes a plant (a list of RGBA images, ever smaller) with its foot at (x, 0, z)."""
        left, foot = self.view.project(x - height / 2, 0, z)
        size = int(2 * self.view.focal * height / z)
        if size < 3 or left > self.image.width or left + size < 0:
            return
        plant = min((plant for plant in plants if plant.height >= size * .7), default=plants[0],
                    key=lambda plant: plant.height)
        # Only the visible part is enlarged: near trees are taller than the picture.
        left, top = int(left), int(foot) - size
        box = (max(left, 0), max(top, 0), min(left + size, self.image.width), int(foot))
        if box[2] <= box[0] or box[3] <= box[1]:
            return
        share = plant.height / size
        source = [(box[0] - left) * share, (box[1] - top) * share,
                  (box[2] - left) * share, (box[3] - top) * share]
        if flip:
            plant = plant.transpose(Image.FLIP_LEFT_RIGHT)
        plant = plant.resize((box[2] - box[0], box[3] - box[1]), Image.NEAREST, box=source)
        alpha = plant.getchannel('A')
        haze = 1 - math.exp(-z / 200)
        plant = plant.convert('RGB')
        if haze > .08:
            pale = Image.new('RGB', plant.size, self.weather['low'])
            plant = Image.blend(plant, pale, haze)
        self.image.paste(plant, box[:2], alpha)
        self.mask.paste(255, box[:2], alpha)
        self.numbers.paste(self.number, box[:2], alpha.point(_OPAQUE))


def _draw_building(canvas, thing):
    """A house: the face along the road, the face towards the camera, roof, windows, doors."""
    rng = np.random.default_rng(thing.look)
    view, side, height = canvas.view, np.sign(thing.s), thing.height
    near, far = max(thing.z, 2.), thing.z + thing.length
    x_near, x_far = (float(view.middle(z)) + thing.s for z in (near, far))
    depth = side * rng.uniform(8, 12)
    wall = np.array(WALLS[rng.integers(len(WALLS))]) * rng.uniform(.84, .98)
    roof, pane = ROOFS[rng.integers(len(ROOFS))], _tone((78, 92, 108), rng.uniform(.7, 1.15))
    frame = (236, 234, 228) if rng.random() < .7 else (96, 70, 54)
    dark = 1 - .8 * canvas.weather['shade']

    def along(t, y):
        return x_near + (x_far - x_near) * t, y, near + (far - near) * t

    def across(t, y):
        return x_near + depth * t, y, near

    gable = rng.random() < .65
    rise = rng.uniform(2., 3.4)
    if gable:
        canvas.polygon([along(-.02, height - .1), along(1.02, height - .1),
                        (x_far + depth / 2, height + rise, far),
                        (x_near + depth / 2, height + rise, near)],
                       roof, dark + .1 if side == canvas.sun else 1.)
    for face, length, lit in ((along, far - near, side != canvas.sun), (across, abs(depth), True)):
        light = (1. if lit else dark) * (1 if face is along else .86)
        canvas.polygon([face(0, 0), face(1, 0), face(1, height), face(0, height)], wall, light)
        canvas.polygon([face(0, 0), face(1, 0), face(1, .6), face(0, .6)], wall, light * .72)
        if not gable:
            canvas.polygon([face(0, height - .35), face(1, height - .35), face(1, height + .15),
                            face(0, height + .15)], wall, light * 1.12)
        _draw_windows(canvas, face, length, height, pane, frame, light, rng)
    if gable:
        canvas.polygon([across(0, height), across(1, height), across(.5, height + rise)], wall,
                       .86)
        canvas.polygon([across(-.03, height - .2), across(0, height + .05), across(.5, height
                        + rise + .1), across(.5, height + rise - .2)], roof, .8)


def _draw_windows(canvas, face, length, height, pane, frame, light, rng):
    """Windows on a wall; `face(t, y)` is its point at the share `t` of its length (metres)."""
    if canvas.view.focal / face(.5, 0)[2] < 9:
        return     # a window would be less than ten pixels wide
    count = max(int(length / 2.9), 1)
    door = int(rng.integers(count)) if length > 6 else -1

    def panel(left, right, low, high, colour, glow):
        canvas.polygon([face(left / length, low), face(right / length, low),
                        face(right / length, high), face(left / length, high)], colour, glow)

    for column in range(count):
        middle = (column + .5) * length / count
        for floor in range(int((height - .5) / 2.9)):
            low = floor * 2.9 + 1.15
            if floor == 0 and column == door:
                panel(middle - .6, middle + .6, 0, 2.3, (104, 66, 44), light)
                panel(middle - .35, middle + .35, 1.5, 2.1, pane, light)
                continue
            panel(middle - .68, middle + .68, low - .1, low + 1.5, frame, light)
            glow = light * rng.uniform(.75, 1.15)
            panel(middle - .58, middle + .58, low, low + 1.4, pane, glow)
            panel(middle - .58, middle + .58, low + .8, low + 1.4, pane, glow * 1.25)
            panel(middle - .04, middle + .04, low, low + 1.4, frame, light)


def _draw_vehicle(canvas, thing):
    """A car, of which we see the rear (or the front, if it comes towards us), a side, the top."""
    rng = np.random.default_rng(thing.look)
    kind = VEHICLES[rng.choice(list(VEHICLES), p=[.4, .45, .15])]
    paint = PAINTS[rng.integers(len(PAINTS))]
    outline, glass, window = list(kind['outline']), set(kind['glass']), list(kind['window'])
    length, pillar = outline[-1][0], kind['pillar']
    if thing.kind == 'oncoming':
        outline = [(length - l, h) for l, h in reversed(outline)]
        window = [(length - l, h) for l, h in window]
        glass = {len(outline) - 2 - i for i in glass}
        pillar = length - pillar
    view = canvas.view

    def point(part, h, l):
        """`part` runs from -1 at the left side to 1; the cabin narrows above the doors."""
        half = kind['width'] / 2 * (1 - .17 * min(max((h - 1.) / .45, 0), 1))
        z = thing.z + l
        return float(view.middle(z)) + thing.s + part * half, h, z

    # Beneath the body first: tyres, and the dark between them.
    axles = (.78, length - .88)
    canvas.polygon([point(p, h, .5) for p, h in ((-.95, .05), (.95, .05), (.95, .4), (-.95, .4))],
                   (16, 16, 18))
    for left in (-.97, .72):
        canvas.polygon([point(p, h, .42) for p, h in ((left, 0), (left + .25, 0),
                                                      (left + .25, .4), (left, .4))], (24, 24, 26))
    faces = []
    for i, ((l0, h0), (l1, h1)) in enumerate(zip(outline, outline[1:])):
        if (h1 - h0) * (thing.z + l0) + (l1 - l0) * (EYE - h0) > 0:     # it faces the camera
            faces.append((-l0, i, l0, h0, l1, h1))
    for _, i, l0, h0, l1, h1 in sorted(faces):
        up = (l1 - l0) / math.hypot(l1 - l0, h1 - h0)
        canvas.polygon([point(-1, h0, l0), point(1, h0, l0), point(1, h1, l1), point(-1, h1, l1)],
                       paint, .82 + .4 * up)
        if i in glass:
            for part, tone, glow in ((.88, (40, 48, 58), 1.), (.3, (96, 112, 128), .9)):
                inset = [(-.88, .1), (-.88 + .88 * 2 * part / 1.2, .1), (part, .88), (-.88, .88)]
                canvas.polygon([point(p if part > .5 or p < 0 else p * .6,
                                      h0 + (h1 - h0) * t, l0 + (l1 - l0) * t)
                                for p, t in inset], tone, glow)
    _draw_face(canvas, point, thing.kind == 'oncoming', outline[1][1], paint)
    x = float(view.middle(thing.z + length / 2)) + thing.s
    side = -1 if x > 0 else 1
    if abs(x) > kind['width'] / 2:
        _draw_flank(canvas, lambda h, l: point(side, h, l), outline, window, pillar, axles, paint)


def _draw_face(canvas, point, oncoming, belt, paint):
    """Lamps, number plate and bumper on the end of a vehicle that we see."""
    lamp, low, high = ((255, 246, 214), belt - .26, belt - .1) if oncoming else (
        (206, 22, 20), belt - .3, belt - .08)

    def panel(left, right, bottom, top, colour, light=1.):
        canvas.polygon([point(left, bottom, 0), point(right, bottom, 0), point(right, top, 0),
                        point(left, top, 0)], colour, light)

    panel(-1, 1, .28, .48, (44, 45, 48))
    panel(-.98, .98, .47, .53, paint, .62)
    for left, right in ((-.97, -.62), (.62, .97)):
        panel(left, right, low, high, lamp)
        panel(left + .08, right - .08, low + .05, low + .11, lamp, 1.5)
    if oncoming:
        panel(-.5, .5, .52, belt - .12, (30, 32, 36))
    panel(-.28, .28, .55, .67, (236, 234, 214))


def _draw_flank(canvas, point, outline, window, pillar, axles, paint):
    """The side of a vehicle; `point(h, l)` lies `h` metres up, `l` metres from the near end."""
    canvas.polygon([point(h, l) for l, h in outline], paint, .74)
    canvas.polygon([point(h, l) for l, h in ((outline[0][0], .3), (outline[0][0], .42),
                                             (outline[-1][0], .42), (outline[-1][0], .3))],
                   paint, .45)
    canvas.polygon([point(h, l) for l, h in window], (58, 68, 80))
    (l0, h0), (l1, h1) = window[:2]
    canvas.polygon([point(h, l) for l, h in ((l0 + (l1 - l0) / 2, (h0 + h1) / 2), (l1, h1),
                                             window[2], (pillar, (h0 + h1) / 2))], (104, 120, 134))
    canvas.polygon([point(h, l) for l, h in ((pillar - .05, h0), (pillar - .05, h1),
                                             (pillar + .05, h1), (pillar + .05, h0))], paint, .6)
    for axle in axles:
        for radius, tone in ((.38, (20, 20, 22)), (.32, (38, 38, 40)), (.2, (150, 152, 156))):
            canvas.polygon([point(.32 + radius * math.sin(a), axle + radius * math.cos(a))
                            for a in np.linspace(0, 2 * math.pi, 16, endpoint=False)
                            if .32 + radius * math.sin(a) >= 0], tone)


def _draw_post(canvas, thing):
    """A street lamp that leans over the road, or a traffic sign."""
    rng = np.random.default_rng(thing.look)
    x, z, top = float(canvas.view.middle(thing.z)) + thing.s, thing.z, thing.height
    inwards = -np.sign(thing.s)

    def panel(left, right, bottom, high, colour):
        canvas.polygon([(x + left, bottom, z), (x + right, bottom, z), (x + right, high, z),
                        (x + left, high, z)], colour)

    panel(-.06, .06, 0, top, (104, 108, 110))
    panel(-.06, -.02, 0, top, (146, 150, 152))
    if thing.kind == 'lamp':
        canvas.polygon([(x, top, z), (x, top - .12, z), (x + inwards * 1.7, top + .22, z),
                        (x + inwards * 1.7, top + .32, z)], (104, 108, 110))
        panel(*sorted((inwards * 1.4, inwards * 2.1)), top + .18, top + .32, (70, 74, 78))
        return
    discs = [((196, 30, 34), (244, 244, 240)), ((28, 84, 170), (238, 240, 242)),
             ((240, 196, 40), (30, 30, 30))][rng.integers(3)]
    for radius, colour in ((.34, discs[0]), (.23, discs[1])):
        canvas.polygon([(x + radius * math.cos(a), top + radius * math.sin(a), z)
                        for a in np.linspace(0, 2 * math.pi, 18, endpoint=False)], colour)


# The scene --------------------------------------------------------------------------------------

def draw_scene(rng, category, size=(375, 1242)):
    """Draws one road scene, its labels and its camera's calibration.

    Args:
        rng: numpy Generator; the scene is a function of it and of the other arguments.
        category: 'um' (two ways, broken middle line), 'umm' (three to five marked lanes) or
            'uu' (narrower, no marks, softer edge).
        size: (height, width) in pixels, about 1 : 3.3.

    Returns:
        `Scene`. Both labels leave out the road's far end and the line along which vehicles touch
        the ground, and road and marking of the one are the road of the other. Lamps and signs are
        not road in the one, and left out in the other.

    Raises:
        ValueError: the category is none of CATEGORIES.
    """
    if category not in CATEGORIES:
        raise ValueError(f"category is {category!r}, expected one of {', '.join(CATEGORIES)}")
    weather = WEATHERS[rng.choice(list(WEATHERS), p=[.35, .3, .2, .15])]
    sun = int(rng.choice([-1, 1]))
    road = _pick_road(rng, category)
    view = _pick_view(rng, category, size, road)
    things = _place_things(rng, road, view)

    # Far trees hide the last rows of the ground, where a row would be tens of metres deep.
    first = int(math.ceil(view.horizon + .02 * view.height))
    sky, above = _draw_sky(rng, weather, view, first)
    ground, s, z, below = _draw_ground(rng, view, road, things, weather, first, sun)
    flat = np.clip(np.concatenate([sky, ground]), 0, 255).astype(np.uint8)
    canvas = _Canvas(flat, view, weather, sun)
    plants = foliage()
    # Far to near. A house counts as far as its far end: cars before it are drawn over it.
    for thing in sorted(things, key=lambda thing: -thing.z - thing.length):
        canvas.number = THINGS[thing.kind]
        if thing.kind == 'building':
            _draw_building(canvas, thing)
        elif thing.kind in ('tree', 'bush'):
            kinds = plants[thing.kind]
            x = float(view.middle(thing.z)) + thing.s
            canvas.paste(kinds[thing.look % len(kinds)], x, thing.z, thing.height, sun > 0)
        elif thing.kind in ('vehicle', 'oncoming'):
            _draw_vehicle(canvas, thing)
        else:
            _draw_post(canvas, thing)
    covered = np.asarray(canvas.mask.reduce(2)) > 127
    label = _draw_label(road, things, s, z, first, covered, rng.uniform(42, 58))
    classes = np.concatenate([above, below])
    classes[(label == BLACK).all(axis=2)] = IGNORED
    classes[covered] = _vote(np.asarray(canvas.numbers), covered)
    return Scene(_expose(rng, canvas.image.reduce(2), weather), label, classes,
                 _calibration(view))


def _calibration(view):
    """The lines of a KITTI calibration file that its bird's-eye view needs.

    KITTI counts columns and rows from 1. The road's origin lies below the camera, y pointing down.
    """
    lines = {'P2': [view.focal, 0, view.width / 2 + 1, 0,
                    0, view.focal, view.horizon + 1, 0,
                    0, 0, 1, 0],
             'R0_rect': np.eye(3).ravel(),
             'Tr_cam_to_road': [1, 0, 0, 0, 0, 1, 0, -EYE, 0, 0, 1, 0]}
    return ''.join(f"{name}: {' '.join(f'{value:.12e}' for value in values)}\n"
                   for name, values in lines.items())


def _draw_label(road, things, s, z, first, covered, far):
    """(H, W, 3) uint8 in KITTI's colours; `covered` (H, W) bool hides the ground."""
    label = np.full(covered.shape + (3,), RED, np.uint8)
    ground = label[first:]
    ground[(s > road.left) & (s < road.right)] = MAGENTA
    ground[(s > road.left - 1) & (s < road.right + 1) & (z > far)] = BLACK
    for thing in things:
        if thing.kind in ('vehicle', 'oncoming'):
            rows = np.flatnonzero((z[:, 0] > thing.z - .3) & (z[:, 0] < thing.z + 4.6))
            if len(rows):
                part = slice(rows[0], rows[-1] + 1)
                ground[part][np.abs(s[part] - thing.s) < 1.1] = BLACK
    label[covered] = RED
    return label


def _vote(numbers, covered):
    """The class that most of each pixel's four parts have, of those that things have.

    Args:
        numbers: (2 H, 2 W) uint8, classes; 0 where nothing, or little more than air, was drawn.
        covered: (H, W) bool, the pixels that are wanted.

    Returns:
        (covered pixels,) uint8; of equals the first, so vegetation where all parts are 0.
    """
    parts = np.stack([numbers[row::2, column::2][covered] for row in (0, 1) for column in (0, 1)])
    candidates = np.array([VEGETATION, BUILDING, VEHICLE, IGNORED], np.uint8)
    votes = [(parts == number).sum(axis=0) for number in candidates]
    return candidates[np.argmax(votes, axis=0)]


def _expose(rng, image, weather):
    """(H, W, 3) uint8: the picture with the camera's exposure, white balance and grain."""
    gain = np.array(weather['gain']) * rng.uniform(.9, 1.08)
    values = np.arange(256) / 255
    curve = values + .05 * np.sin(2 * np.pi * (values - .5)) / 2       # a little contrast
    image = image.point([int(min(max(v * g * 255, 0), 255)) for g in gain for v in curve])
    grain = rng.integers(-4, 5, (image.height, image.width, 1), dtype=np.int16)
    return np.clip(np.asarray(image, np.int16) + grain, 0, 255).astype(np.uint8)
