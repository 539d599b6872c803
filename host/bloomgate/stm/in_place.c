/* TVar.value in place: what the property of that name in tvar.py does for the thread that is alone, without Python.
 * Everything else is left to the functions of that property. Nothing here can be interrupted, by another thread either:
 * all of it happens with the GIL, and old values are released last, because that may run Python. */

#if defined(Py_PYTHON_H) && !defined(PYPY_VERSION) && !defined(Py_GIL_DISABLED)
/* Where Python's __slots__ lie, in bytes; in the order in which accelerator.py gives them. */
typedef struct {
    Py_ssize_t present;                     /* Alone.era */
    Py_ssize_t stamp, thread, wrote;        /* of an Era */
    Py_ssize_t era, value, before, stamped; /* of a TVar */
} in_place_slots;

typedef struct {
    PyObject_HEAD
    PyTypeObject *variables;
    PyObject *alone, *get, *set;
    in_place_slots slots;
} in_place_value;

static PyObject **python_slot(PyObject *object, Py_ssize_t offset) {
    return (PyObject **)((char *)object + offset);
}

/* Whether this thread is alone, and the value of the variable in place. */
static bool is_in_place(const in_place_value *self, PyObject *object) {
    if (Py_TYPE(object) != self->variables && !PyType_IsSubtype(Py_TYPE(object), self->variables))
        return false;
    PyObject *era = *python_slot(object, self->slots.era);
    return era != NULL && era == *python_slot(self->alone, self->slots.present) &&
           PyLong_AsUnsignedLong(*python_slot(era, self->slots.thread)) == PyThread_get_thread_ident();
}

static PyObject *in_place_get(PyObject *descriptor, PyObject *object, PyObject *type) {
    in_place_value *self = (in_place_value *)descriptor;
    (void)type;
    if (object == NULL) {
        Py_INCREF(descriptor);
        return descriptor;
    }
    if (is_in_place(self, object)) {
        PyObject *value = *python_slot(object, self->slots.value);
        Py_INCREF(value);
        return value;
    }
    return PyObject_CallFunctionObjArgs(self->get, object, NULL);
}

static int in_place_set(PyObject *descriptor, PyObject *object, PyObject *value) {
    in_place_value *self = (in_place_value *)descriptor;
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "the value of a TVar cannot be deleted");
        return -1;
    }
    if (is_in_place(self, object)) {
        PyObject *present = *python_slot(object, self->slots.era);
        PyObject *stamp = *python_slot(present, self->slots.stamp);
        PyObject **stamped = python_slot(object, self->slots.stamped);
        PyObject **place = python_slot(object, self->slots.value);
        PyObject *old = *place;
        int64_t now = PyLong_AsLongLong(stamp);
        /* Whoever stamps variables takes the very object, so that it need not be compared by its value. */
        if (now > 0 ? *stamped == stamp : now < 0 && PyLong_AsLongLong(*stamped) == -now) {
            Py_INCREF(value);
            *place = value;
            Py_DECREF(old);
            return 0;
        }
        if (now > 0) {
            PyObject **before = python_slot(object, self->slots.before);
            PyObject **wrote = python_slot(present, self->slots.wrote);
            PyObject *older = *before, *mark = *stamped, *flag = *wrote;
            Py_INCREF(Py_True);
            *wrote = Py_True;
            *before = old;
            Py_INCREF(stamp);
            *stamped = stamp;
            Py_INCREF(value);
            *place = value;
            Py_DECREF(flag);
            Py_DECREF(older);
            Py_DECREF(mark);
            return 0;
        }
    }
    PyObject *none = PyObject_CallFunctionObjArgs(self->set, object, value, NULL);
    Py_XDECREF(none);
    return none == NULL ? -1 : 0;
}

static PyType_Slot in_place_type_slots[] = {
    {Py_tp_descr_get, in_place_get},
    {Py_tp_descr_set, in_place_set},
    {Py_tp_doc, "The value of a TVar"},
    {0, NULL},
};

static PyType_Spec in_place_type = {
    "bloomgate.stm.InPlaceValue", sizeof(in_place_value), 0, Py_TPFLAGS_DEFAULT, in_place_type_slots};

/* The descriptor for a class of variables; `get` and `set` are the functions of its property. It is never freed, as the
 * class is not. */
__attribute__((visibility("default"))) PyObject *bg_in_place(PyObject *variables, PyObject *alone, PyObject *get,
                                                             PyObject *set, const in_place_slots *slots) {
    PyObject *type = PyType_FromSpec(&in_place_type);
    if (type == NULL)
        return NULL;
    in_place_value *self = PyObject_New(in_place_value, (PyTypeObject *)type);
    Py_DECREF(type);
    if (self == NULL)
        return NULL;
    Py_INCREF(variables);
    Py_INCREF(alone);
    Py_INCREF(get);
    Py_INCREF(set);
    self->variables = (PyTypeObject *)variables;
    self->alone = alone;
    self->get = get;
    self->set = set;
    self->slots = *slots;
    return (PyObject *)self;
}
#endif
