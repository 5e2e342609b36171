"""Error messages for callers when TensorFlow fails; the texts on the left are TensorFlow 2.21's."""

import pytest
import tensorflow as tf

from tfllm.serving.protocol.errors import clean_message, from_exception

DETECTED = "Detected at node A/Assert defined at (most recent call last):\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"Graph execution error:\n\n{DETECTED}<stack traces unavailable>\n"
            "assertion failed: [x must not be negative.] [x (x:0) = ] [-1]\n"
            "\t [[{{node A/Assert}}]]\n\t [[StatefulPartitionedCall]]\n\t [[BatchFunction]] "
            "[Op:__inference_call_1646]",
            "assertion failed: [x must not be negative.] [x (x:0) = ] [-1]",
        ),
        (
            f'Graph execution error:\n\n{DETECTED}  File "a.py", line 25, in <module>\n\n'
            '  File "a.py", line 90, in call\n\nDimensions of inputs should match\n'
            "\t [[{{node BatchFunction}}]] [Op:__inference_call_1768]",
            "Dimensions of inputs should match",
        ),
        (
            f"Graph execution error:\n\n{DETECTED}<stack traces unavailable>\n{DETECTED}"
            "<stack traces unavailable>\n2 root error(s) found.\n"
            "  (0) INVALID_ARGUMENT:  indices[0] = 9 is not in [0, 4)\n"
            "\t [[{{node a}}]]\n\t [[b/_5]]\n"
            "  (1) INVALID_ARGUMENT:  indices[0] = 9 is not in [0, 4)\n\t [[{{node a}}]]\n"
            "0 successful operations.\n0 derived errors ignored. [Op:__inference_wrapper_1]",
            "indices[0] = 9 is not in [0, 4)",
        ),
        (
            "{{function_node __wrapped__Reshape_device_/job:localhost/replica:0}} "
            "Input to reshape is a tensor with 3 values [Op:Reshape] name: ",
            "Input to reshape is a tensor with 3 values",
        ),
        ("received [[3]] and\n[[4, 5]]", "received [[3]] and\n[[4, 5]]"),
        ("", "the model's graph failed without a message"),
    ],
)
def test_a_message_is_what_the_kernel_says(text, message):
    assert clean_message(text) == message


def test_an_error_that_tensorflow_raises_now_is_clean():
    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
    def look_up(ids):
        return tf.gather(tf.constant([1.0, 2.0]), ids) + tf.gather(tf.constant([3.0]), ids)

    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        look_up(tf.constant([7]))
    error = from_exception(caught.value)
    assert error.code == "INVALID_ARGUMENT"
    assert error.message.startswith("indices[0] = 7 is not in [0, ")
    for noise in ("stack traces", "node", "[[", "Op:", "root error", "File"):
        assert noise not in error.message
