/* The pages of programs and libraries that this process has mapped: code and constants, as the files have them. */
#ifndef ELASTICREC_LOADED_CODE_H
#define ELASTICREC_LOADED_CODE_H

/* Let go of all: what runs next maps its own again, mostly from the page cache, and what only began the server stays out. */
void loaded_code_release(void);

#endif
