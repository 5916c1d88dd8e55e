/* Before every file of a sanitizer's build: its runtime stands in for functions that RTLD_DEEPBIND would hide. */
#include <dlfcn.h>
#undef RTLD_DEEPBIND
#define RTLD_DEEPBIND 0
