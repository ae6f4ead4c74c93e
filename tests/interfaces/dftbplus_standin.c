/* Speaks like DFTB+'s dftbplus.h and solves nothing: it asks for S and H and hands back H + 2 S as the density matrix,
 * in the way that the first line of the input file names:
 *
 *   exchange STORAGE N1 N2 ...   atoms with N1, N2, ... orbitals; STORAGE 0 whole, 1 lower, 2 upper triangle
 *   mpi STORAGE N1 N2 ...        the same with a BLACS descriptor
 *   silent STORAGE N1 N2 ...     asks for nothing
 *   error                        ends the process, as DFTB+ does when it dislikes an input
 *
 * Anything else is one atom with one orbital. Compiled with -DOLD it lacks what DFTB+ 24.1 lacks.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { void *p; } Handle;
typedef struct { int matrix_type, storage_type; } Descriptor;
typedef void (*Get)(void *, int, int, int *, const void *, Descriptor *);
typedef int (*Set)(void *, int, int, int *, void *, Descriptor *);

typedef struct {
  FILE *log;
  char mode[16];
  int n_atoms, storage, orbitals[64];
  Set set_s, set_h;
  Get get_dm;
} State;

static int live = 0;
int standin_live(void) { return live; }

void dftbp_init(Handle *h, const char *log) {
  State *s = calloc(1, sizeof(State));
  s->log = fopen(log, "w");
  h->p = s;
  live++;
}

void dftbp_final(Handle *h) {
  fclose(((State *)h->p)->log);
  free(h->p);
  h->p = NULL;
  live--;
}

void dftbp_get_input_from_file(Handle *h, const char *name, Handle *input) {
  char *line = calloc(1, 1000);
  FILE *f = fopen(name, "r");
  if (!f || !fgets(line, 1000, f)) abort();
  fclose(f);
  input->p = line;
  live++;
}

void dftbp_input_final(Handle *input) {
  free(input->p);
  input->p = NULL;
  live--;
}

void dftbp_process_input(Handle *h, Handle *input) {
  State *s = h->p;
  char *word = strtok(input->p, " \n");
  if (!strcmp(word, "error")) {
    fprintf(s->log, "reading\nERROR!\n-> No such\n   thing as this\n");
    fflush(s->log);
    exit(1);
  }
  strncpy(s->mode, word, 15);
  if (strcmp(word, "exchange") && strcmp(word, "mpi") && strcmp(word, "silent")) {
    s->orbitals[s->n_atoms++] = 1;
    return;
  }
  s->storage = atoi(strtok(NULL, " \n"));
  while ((word = strtok(NULL, " \n"))) s->orbitals[s->n_atoms++] = atoi(word);
}

int dftbp_get_nr_atoms(Handle *h) { return ((State *)h->p)->n_atoms; }
int dftbp_get_nr_spin(Handle *h) { return 1; }
int dftbp_nr_kpoints(Handle *h) { return 1; }
_Bool dftbp_is_hs_real(Handle *h) { return 1; }

void dftbp_get_nr_orbitals(Handle *h, int *n) {
  State *s = h->p;
  memcpy(n, s->orbitals, s->n_atoms * sizeof(int));
}

void dftbp_register_dm_callback(Handle *h, Get f, void *aux) { ((State *)h->p)->get_dm = f; }
#ifndef OLD
void dftbp_register_set_s_callback(Handle *h, Set f, void *aux) { ((State *)h->p)->set_s = f; }
void dftbp_register_set_h_callback(Handle *h, Set f, void *aux) { ((State *)h->p)->set_h = f; }
#endif

void dftbp_get_energy(Handle *handle, double *energy) {
  State *state = handle->p;
  int n = 0, blacs[9] = {0};
  for (int k = 0; k < state->n_atoms; k++) n += state->orbitals[k];
  double *s = malloc(8 * n * n), *h = malloc(8 * n * n), *d = malloc(8 * n * n);
  for (int k = 0; k < n * n; k++) s[k] = h[k] = NAN;
  *energy = 0.0;
  int *descriptor = strcmp(state->mode, "mpi") ? NULL : blacs;
  if (strcmp(state->mode, "silent")) {
    Descriptor part = {1, state->storage};
    int changed = state->set_s(NULL, 1, 1, descriptor, s, &part) & state->set_h(NULL, 1, 1, descriptor, h, &part);
    for (int column = 0; column < n; column++)
      for (int row = 0; row < n; row++) {
        int there = !state->storage || row == column || (state->storage == 1) == (row > column);
        /* from the other triangle: the whole square has to have been filled */
        double value = h[row * n + column] + 2.0 * s[row * n + column];
        d[column * n + row] = there && changed ? value : NAN;
      }
    state->get_dm(NULL, 1, 1, descriptor, d, &part);
  }
  free(s);
  free(h);
  free(d);
}
