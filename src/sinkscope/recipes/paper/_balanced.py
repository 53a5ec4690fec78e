"""The 100 prompts that several tables of the release use, as places in GenEval's list of 553.

From `prompts/prompts_geneval_balanced_100.txt` of the release, in its order: 20 single_object and two_object,
15 of each other task, shuffled. The script that drew them is not released.
"""

# fmt: off
BALANCED = (
    493, 384, 17, 27, 92, 137, 133, 184, 187, 482, 374, 292, 295, 293, 189, 28, 494, 134, 316, 35,
    258, 91, 278, 442, 128, 155, 115, 247, 31, 124, 68, 540, 287, 524, 412, 108, 55, 71, 125, 339,
    435, 480, 457, 194, 434, 421, 77, 303, 373, 14, 100, 4, 461, 525, 70, 149, 212, 481, 446, 284,
    93, 268, 237, 362, 3, 99, 306, 249, 216, 11, 487, 169, 41, 29, 13, 78, 504, 305, 551, 177,
    227, 203, 441, 208, 430, 552, 343, 440, 123, 12, 107, 45, 270, 401, 225, 304, 387, 80, 256, 460,
)
# fmt: on
