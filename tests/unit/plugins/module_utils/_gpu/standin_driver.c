/* A stand-in for libcuda.so.1 and libnvidia-ml.so.1. Its GPUs are memory of the process, and its one kernel is in C.
   STANDIN_GPUS says how many there are; STANDIN_FAIL=FUNCTION=CODE, STANDIN_HANG=FUNCTION and STANDIN_CRASH=FUNCTION
   what a call does instead; STANDIN_WRONG=memory or kernel that what it computes is wrong; STANDIN_DOWN that a link is
   down, and STANDIN_ECC how many errors there were. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long long u64;

static int is(const char *variable, const char *value) {
    const char *set = getenv(variable);
    return set && strcmp(set, value) == 0;
}

static int gpus(void) { return getenv("STANDIN_GPUS") ? atoi(getenv("STANDIN_GPUS")) : 2; }

static int begin(const char *function) {
    const char *fail = getenv("STANDIN_FAIL");
    size_t length = strlen(function);
    if (is("STANDIN_HANG", function)) for (;;) pause();
    if (is("STANDIN_CRASH", function)) raise(SIGSEGV);
    if (fail && strncmp(fail, function, length) == 0 && fail[length] == '=') return atoi(fail + length + 1);
    return 0;
}
#define BEGIN do { int code = begin(__func__); if (code) return code; } while (0)

int cuInit(unsigned flags) { BEGIN; return flags ? 1 : 0; }
int cuDriverGetVersion(int *version) { BEGIN; *version = 13010; return 0; }
int cuDeviceGetCount(int *count) { BEGIN; *count = gpus(); return 0; }
int cuDeviceGet(int *device, int ordinal) { BEGIN; *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) { BEGIN; snprintf(name, length, "Stand-in %d", device); return 0; }
int cuDeviceGetPCIBusId(char *id, int length, int device) {
    BEGIN;
    snprintf(id, length, "0000:%02X:00.0", 0x1a + device);
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { BEGIN; *bytes = (size_t)(80 + device) << 30; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    BEGIN;
    *value = attribute == 75 ? 9 : attribute == 76 ? device : -1;
    return 0;
}
int cuGetErrorName(int code, const char **name) {
    *name = code == 802 ? "CUDA_ERROR_SYSTEM_NOT_READY" : NULL;
    return code == 802 ? 0 : 1;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { BEGIN; *context = (void *)(size_t)(device + 1); return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { BEGIN; return 0; }
static void *current;
int cuCtxSetCurrent(void *context) { BEGIN; current = context; return 0; }
int cuMemAlloc_v2(u64 *pointer, size_t bytes) {
    BEGIN;
    if (!current) return 201;
    *pointer = (u64)malloc(bytes);
    return 0;
}
int cuMemsetD32_v2(u64 pointer, unsigned value, size_t count) {
    BEGIN;
    for (size_t i = 0; i < count; i++) ((unsigned *)pointer)[i] = value;
    if (is("STANDIN_WRONG", "memory")) ((unsigned *)pointer)[count - 1] ^= 1u << 30;
    return 0;
}
int cuMemcpyDtoH_v2(void *to, u64 from, size_t bytes) { BEGIN; memcpy(to, (void *)from, bytes); return 0; }
int cuModuleLoadData(void **module, const char *image) {
    BEGIN;
    if (!strstr(image, ".visible .entry triple(")) return 218;
    *module = (void *)image;
    return 0;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
    BEGIN;
    *function = module;
    return strcmp(name, "triple") ? 500 : 0;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **parameters, void **extra) {
    BEGIN;
    unsigned *words = *(unsigned **)parameters[0], count = *(unsigned *)parameters[1];
    if (!function || gy != 1 || gz != 1 || by != 1 || bz != 1 || shared || stream || extra) return 1;
    for (unsigned i = 0; i < gx * bx && i < count; i++) words[i] = 3 * i + 1;
    if (is("STANDIN_WRONG", "kernel")) words[7] = 0;
    return 0;
}
int cuCtxSynchronize(void) { BEGIN; return 0; }

struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char address[32]; };
struct memory { u64 total, free, used; };

const char *nvmlErrorString(int code) { return code == 999 ? "Unknown Error" : "another error"; }
int nvmlInit_v2(void) { BEGIN; return 0; }
int nvmlSystemGetDriverVersion(char *version, unsigned length) { BEGIN; snprintf(version, length, "580.95.05"); return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { BEGIN; *count = gpus(); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { BEGIN; *device = (void *)(size_t)(index + 1); return 0; }
int nvmlDeviceGetName(void *device, char *name, unsigned length) {
    BEGIN;
    snprintf(name, length, "Stand-in %d", (int)(size_t)device - 1);
    return 0;
}
int nvmlDeviceGetPciInfo_v3(void *device, struct pci *pci) {
    BEGIN;
    snprintf(pci->address, sizeof pci->address, "00000000:%02X:00.0", 0x1a + (int)(size_t)device - 1);
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *device, struct memory *memory) { BEGIN; memory->total = 80ull << 30; return device == 0; }
int nvmlDeviceGetRemappedRows(void *device, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) {
    BEGIN;
    *corrected = *uncorrected = *pending = 0;
    *failed = getenv("STANDIN_ROWS") != NULL;
    return device == 0;
}
int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    BEGIN;
    *current = *pending = getenv("STANDIN_MIG") != NULL;
    return device == 0;
}
int nvmlDeviceGetEccMode(void *device, unsigned *current, unsigned *pending) { BEGIN; *current = *pending = 1; return device == 0; }
int nvmlDeviceGetTotalEccErrors(void *device, unsigned kind, unsigned counter, u64 *count) {
    BEGIN;
    *count = kind == 1 && counter == 0 && getenv("STANDIN_ECC") ? strtoull(getenv("STANDIN_ECC"), NULL, 10) : 0;
    return device == 0;
}
int nvmlDeviceGetNvLinkState(void *device, unsigned link, unsigned *active) {
    BEGIN;
    if (link >= 12) return 2;
    *active = !(getenv("STANDIN_DOWN") && device == (void *)1 && link == 3);
    return 0;
}
