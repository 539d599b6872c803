/* For the generated header: the kernel has these types elsewhere. */
#include <linux/types.h>
