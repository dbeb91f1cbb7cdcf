/* Ray-traces one tile of a picture: a sphereflake (Haines 1987) over still water at sunset.

   Arguments: WIDTH HEIGHT X Y TILE_WIDTH TILE_HEIGHT SAMPLES. Standard output: TILE_WIDTH * TILE_HEIGHT pixels,
   three bytes (red, green, blue) each, rows from the top. SAMPLES² rays a pixel. Exit 64 (EX_USAGE) on any other
   arguments. Only +, -, *, / and sqrt are used, which IEEE 754 rounds in one way everywhere: every machine draws
   the same bytes. */

#include "wasi.h"

#define SIDE_MAX 8192
#define TILE_PIXELS_MAX (1 << 18)
#define DEPTH_MAX 4    /* generations of spheres: 1 + 9 + 81 + 729 + 6561 */
#define BOUNCES_MAX 4
#define FAR 1e9

typedef struct { double x, y, z; } vec;

static vec add(vec a, vec b) { return (vec){a.x + b.x, a.y + b.y, a.z + b.z}; }
static vec sub(vec a, vec b) { return (vec){a.x - b.x, a.y - b.y, a.z - b.z}; }
static vec scale(vec a, double k) { return (vec){a.x * k, a.y * k, a.z * k}; }
static vec times(vec a, vec b) { return (vec){a.x * b.x, a.y * b.y, a.z * b.z}; }
static double dot(vec a, vec b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
static vec cross(vec a, vec b) {
  return (vec){a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}
static vec unit(vec a) { return scale(a, 1.0 / __builtin_sqrt(dot(a, a))); }
static vec mix(vec a, vec b, double t) { return add(scale(a, 1.0 - t), scale(b, t)); }
static double clamp(double v, double low, double high) { return v < low ? low : v > high ? high : v; }
static vec mirror(vec ray, vec normal) { return sub(ray, scale(normal, 2.0 * dot(ray, normal))); }

static const vec SUN = {-0.56, 0.15, -0.80}; /* made unit in start() */
static vec sun;

/* Nine children of a sphere, as directions around its axis: six at the equator, three above. */
static vec CHILDREN[9];

static void place_children(void) {
  /* cos and sin of 0, 60, 120 … and 30, 150, 270 degrees, and of the elevations 0 and 60 degrees */
  const double h = 0.8660254037844386;
  const double ring[6][2] = {{1, 0}, {0.5, h}, {-0.5, h}, {-1, 0}, {-0.5, -h}, {0.5, -h}};
  const double top[3][2] = {{h, 0.5}, {-h, 0.5}, {0, -1}};
  for (int i = 0; i < 6; i++) CHILDREN[i] = (vec){ring[i][0], 0, ring[i][1]};
  for (int i = 0; i < 3; i++) CHILDREN[6 + i] = (vec){top[i][0] * 0.5, h, top[i][1] * 0.5};
}

/* The distance along a unit ray to a sphere, or FAR. */
static double sphere(vec from, vec ray, vec center, double radius) {
  vec way = sub(center, from);
  double along = dot(way, ray);
  double miss = dot(way, way) - along * along;
  double room = radius * radius - miss;
  if (room < 0) return FAR;
  double half = __builtin_sqrt(room);
  if (along - half > 1e-6) return along - half;
  if (along + half > 1e-6) return along + half;
  return FAR;
}

static vec turned(vec child, vec axis) {
  vec helper = axis.y > 0.9 || axis.y < -0.9 ? (vec){1, 0, 0} : (vec){0, 1, 0};
  vec side = unit(cross(helper, axis));
  vec front = cross(axis, side);
  return add(add(scale(side, child.x), scale(axis, child.y)), scale(front, child.z));
}

struct hit {
  double distance;
  vec center;
  int generation;
};

/* The nearest sphere of the flake below (center, radius, axis); a sphere twice as large bounds all its children. */
static void flake(vec from, vec ray, vec center, double radius, vec axis, int generation, struct hit *best) {
  vec way = sub(center, from);
  double along = dot(way, ray);
  double bound = radius * 2.0;
  double aside = dot(way, way) - along * along;
  if (aside > bound * bound || along < -bound || along - bound > best->distance) return;
  double distance = sphere(from, ray, center, radius);
  if (distance < best->distance) *best = (struct hit){distance, center, generation};
  if (generation == DEPTH_MAX) return;
  for (int i = 0; i < 9; i++) {
    vec way_out = turned(CHILDREN[i], axis);
    flake(from, ray, add(center, scale(way_out, radius * 4.0 / 3.0)), radius / 3.0, way_out, generation + 1, best);
  }
}

static const vec CENTER = {0, 1.32, 0};
static const vec UP = {0, 1, 0};

static struct hit trace(vec from, vec ray, double limit) {
  struct hit best = {limit, {0, 0, 0}, -1};
  flake(from, ray, CENTER, 1.0, UP, 0, &best);
  return best;
}

static vec sky(vec ray) {
  double height = clamp(ray.y, 0.0, 1.0);
  double low = 1.0 - height;
  double haze = low * low * low;
  vec color = mix((vec){0.10, 0.20, 0.46}, (vec){1.00, 0.56, 0.30}, haze * haze * low);
  color = add(color, scale((vec){0.26, 0.16, 0.30}, haze * (1.0 - haze)));
  double glow = clamp(dot(ray, sun), 0.0, 1.0);
  double g2 = glow * glow, g4 = g2 * g2, g8 = g4 * g4, g32 = g8 * g8 * g8 * g8;
  double g256 = g32 * g32;
  g256 *= g256;
  g256 *= g256;
  double g1024 = g256 * g256 * g256 * g256;
  color = add(color, scale((vec){1.0, 0.55, 0.25}, 0.30 * g8 + 0.55 * g32));
  return add(color, scale((vec){1.0, 0.85, 0.6}, 6.0 * g1024));
}

/* Ripples without sines: a few triangle waves, smoothed by t²(3 - 2t). */
static double wave(double t) {
  double whole = (double)(int64_t)t;
  if (whole > t) whole -= 1.0;
  double part = t - whole;
  part = part < 0.5 ? part * 2.0 : 2.0 - part * 2.0;
  return part * part * (3.0 - 2.0 * part) - 0.5;
}

static vec ripple(double x, double z, double distance) {
  double fade = 1.0 / (1.0 + distance * distance * 0.004);
  double dx = 0.050 * wave(x * 0.9 + z * 0.35) + 0.030 * wave(x * 2.3 - z * 1.1) + 0.012 * wave(x * 6.1 + z * 4.7);
  double dz = 0.050 * wave(z * 0.8 - x * 0.3 + 0.3) + 0.030 * wave(z * 2.6 + x * 0.9) + 0.012 * wave(z * 5.3 - x * 3.9);
  return unit((vec){dx * fade, 1.0, dz * fade});
}

static const vec PAINT[DEPTH_MAX + 1] = {
    {0.95, 0.78, 0.42}, {0.92, 0.50, 0.32}, {0.72, 0.34, 0.42}, {0.36, 0.44, 0.66}, {0.30, 0.66, 0.68}};

static vec shade(vec from, vec ray) {
  vec color = {0, 0, 0}, weight = {1, 1, 1};
  for (int bounce = 0; bounce <= BOUNCES_MAX; bounce++) {
    double water = ray.y < -1e-9 ? -from.y / ray.y : FAR;
    struct hit hit = trace(from, ray, water > 1e-6 ? water : FAR);
    if (hit.generation < 0 && (water >= FAR || water > 400.0)) {
      vec level = ray.y < 0 ? unit((vec){ray.x, 0.001, ray.z}) : ray;
      return add(color, times(weight, sky(level)));
    }
    vec normal;
    if (hit.generation < 0) {
      from = add(from, scale(ray, water));
      normal = ripple(from.x, from.z, water);
      double facing = clamp(-dot(ray, normal), 0.0, 1.0);
      double away = 1.0 - facing;
      double fresnel = 0.04 + 0.96 * away * away * away * away * away;
      color = add(color, times(weight, scale((vec){0.015, 0.055, 0.085}, 1.0 - fresnel)));
      weight = scale(weight, fresnel);
      from.y = 1e-5;
      ray = mirror(ray, normal);
      if (ray.y < 0.002) ray = unit((vec){ray.x, 0.002, ray.z});
    } else {
      from = add(from, scale(ray, hit.distance));
      normal = unit(sub(from, hit.center));
      from = add(from, scale(normal, 1e-5));
      double lit = clamp(dot(normal, sun), 0.0, 1.0);
      if (lit > 0.0 && trace(from, sun, FAR).generation >= 0) lit = 0.0;
      vec around = mix((vec){0.16, 0.13, 0.15}, (vec){0.46, 0.45, 0.58}, 0.5 + 0.5 * normal.y);
      vec light = add(around, scale((vec){2.3, 1.35, 0.72}, lit));
      vec paint = PAINT[hit.generation];
      double away = 1.0 - clamp(-dot(ray, normal), 0.0, 1.0);
      double shine = 0.22 + 0.6 * away * away * away * away;
      color = add(color, times(weight, scale(times(paint, light), 1.0 - shine)));
      weight = scale(times(weight, mix(paint, (vec){1, 1, 1}, 0.5)), shine);
      ray = mirror(ray, normal);
    }
    if (weight.x + weight.y + weight.z < 0.03) return color;
  }
  return color;
}

/* Film curve (Reinhard), then the square root as gamma 2. */
static uint8_t tone(double light) {
  double film = light * (1.0 + light * 0.16) / (1.0 + light * 0.62);
  return (uint8_t)(clamp(__builtin_sqrt(film), 0.0, 1.0) * 255.0 + 0.5);
}

static uint8_t pixels[TILE_PIXELS_MAX * 3];

static void draw(int width, int height, int x0, int y0, int columns, int rows, int samples) {
  const vec eye = {1.5, 1.55, 4.1}, look = {-0.30, 1.08, 0};
  vec front = unit(sub(look, eye));
  vec right = unit(cross(front, UP));
  vec above = cross(right, front);
  double focus = 1.55 * height / 2.0;
  size_t at = 0;
  for (int y = y0; y < y0 + rows; y++)
    for (int x = x0; x < x0 + columns; x++) {
      vec sum = {0, 0, 0};
      for (int j = 0; j < samples; j++)
        for (int i = 0; i < samples; i++) {
          double u = x + (i + 0.5) / samples - width / 2.0;
          double v = height / 2.0 - (y + (j + 0.5) / samples);
          vec ray = unit(add(add(scale(front, focus), scale(right, u)), scale(above, v)));
          vec light = shade(eye, ray);
          sum = add(sum, (vec){clamp(light.x, 0, 8), clamp(light.y, 0, 8), clamp(light.z, 0, 8)});
        }
      sum = scale(sum, 1.0 / (samples * samples));
      pixels[at++] = tone(sum.x);
      pixels[at++] = tone(sum.y);
      pixels[at++] = tone(sum.z);
    }
  write_all(1, pixels, at);
}

static int number(const char *text, int low, int high) {
  int value = 0;
  if (!*text) wasi_proc_exit(64);
  for (; *text; text++) {
    if (*text < '0' || *text > '9' || value > SIDE_MAX) wasi_proc_exit(64);
    value = value * 10 + (*text - '0');
  }
  if (value < low || value > high) wasi_proc_exit(64);
  return value;
}

__attribute__((export_name("_start"))) void start(void) {
  static char *argv[16];
  static char text[512];
  size_t count = 0, bytes = 0;
  if (wasi_args_sizes_get(&count, &bytes) != 0 || count != 8 || bytes > sizeof text) wasi_proc_exit(64);
  if (wasi_args_get(argv, text) != 0) wasi_proc_exit(64);
  int width = number(argv[1], 1, SIDE_MAX), height = number(argv[2], 1, SIDE_MAX);
  int x = number(argv[3], 0, width - 1), y = number(argv[4], 0, height - 1);
  int columns = number(argv[5], 1, width - x), rows = number(argv[6], 1, height - y);
  int samples = number(argv[7], 1, 8);
  if (columns * rows > TILE_PIXELS_MAX) wasi_proc_exit(64);
  sun = unit(SUN);
  place_children();
  draw(width, height, x, y, columns, rows, samples);
}
